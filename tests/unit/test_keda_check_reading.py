"""What is read, from where, and what is refused in one sentence."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from nowserving.cli import app
from nowserving.keda.check import document
from nowserving.keda.check.loader import MAX_DEPTH, UnreadableError, load_documents
from nowserving.keda.check.manifest import MAX_BYTES, parse_manifests
from tests.manifest.planting import GONE, GOOD, check, paths, plant, put

runner = CliRunner()
PAIR = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n"
BAD = ("Deployment/smollm2", "spec.template.spec.terminationGracePeriodSeconds", 30)


def _check(*arguments: str, text: str | None = None) -> Result:
    return runner.invoke(app, ["keda", "check", *arguments], input=text)


def test_each_rule_is_documented_as_it_is() -> None:
    assert document() in (Path(__file__).parents[2] / "docs/keda-check.md").read_text()


def test_exit_codes_say_nothing_something_and_unreadable(tmp_path: Path) -> None:
    good = _check(str(GOOD))
    assert (good.exit_code, good.output) == (0, "Nothing found in 13 objects.\n")
    planted = tmp_path / "planted.yaml"
    planted.write_text(yaml.safe_dump_all(plant(BAD)))
    found = _check(str(planted))
    assert found.exit_code == 1
    assert found.output.startswith(f"error grace-too-short: {planted}: Deployment ai/smollm2\n")
    assert "  instead: terminationGracePeriodSeconds: 45\n" in found.output
    assert found.output.endswith("\n1 error in 13 objects.\n")
    missing = _check(str(tmp_path / "missing.yaml"))
    assert (missing.exit_code, missing.stdout) == (2, "")
    assert missing.stderr == f"nowserving: {tmp_path / 'missing.yaml'} cannot be read: No such file or directory\n"


def test_stdin_folders_and_lists_are_read(tmp_path: Path) -> None:
    documents = plant(BAD)
    assert _check("-", text=yaml.safe_dump_all(documents)).exit_code == 1
    listed = {"apiVersion": "v1", "kind": "List", "items": documents}
    assert _check("-", text=json.dumps(listed)).exit_code == 1
    (tmp_path / "deep").mkdir()
    for at, body in enumerate(documents):
        (tmp_path / "deep" / f"{at}.yaml").write_text(yaml.safe_dump(body))
    (tmp_path / "values.yaml").write_text("replicas: 3\n")
    (tmp_path / "notes.md").write_text("# {{\n")
    assert _check(str(tmp_path)).output.endswith("\n1 error in 13 objects.\n")


def test_a_kustomization_is_not_what_is_applied(tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("resources: []\n")
    (tmp_path / "a.yaml").write_text(PAIR)
    found = _check(str(tmp_path))
    assert found.exit_code == 2
    assert f"kubectl kustomize {tmp_path} | nowserving keda check -" in found.stderr


def test_json_is_for_programs() -> None:
    found = json.loads(_check("--json", "-", text=yaml.safe_dump_all(plant(BAD))).stdout)
    assert (found["errors"], found["warnings"], found["objects"]) == (1, 0, 13)
    keys = {"file", "kind", "namespace", "name", "rule", "severity", "what", "why", "fix"}
    assert [set(finding) for finding in found["findings"]] == [keys]
    assert json.loads(_check("--json", str(GOOD)).stdout)["findings"] == []


def test_rules_can_be_left_out() -> None:
    text = yaml.safe_dump_all(plant(BAD))
    assert _check("--ignore", "grace-too-short", "-", text=text).exit_code == 0
    wrong = _check("--ignore", "no-such-rule", "-", text=text)
    assert wrong.exit_code == 2
    assert "no-such-rule" in wrong.stderr


def test_the_catalog_is_given_or_stands_in_a_config_map(tmp_path: Path) -> None:
    models = tmp_path / "models.toml"
    models.write_text('[models.other]\nengine = "noop"\n')
    found = _check("--models", str(models), str(GOOD))
    assert "error model-unknown" in found.output
    text = yaml.safe_dump_all(plant(("ConfigMap/models", "data", {})))
    assert _check("-", text=text).exit_code == 0, "nothing is said of models that nobody knows"
    models.write_text("models = 1\n")
    assert _check("--models", str(models), str(GOOD)).exit_code == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "is not YAML at line"),
        ("a: {{ .Values.b }}", "check what `helm template` prints"),
        ("a: !!python/object/apply:os.system ['true']", "is not YAML at line 1"),
        ("", "there is no Kubernetes object"),
        ("replicas: 3", "there is no Kubernetes object"),
        ("- 1\n- 2", "there is no Kubernetes object"),
        ("a: &a [*a]", "an alias in it stands within"),
        ("[" * (MAX_DEPTH + 2), f"deeper than {MAX_DEPTH}"),
        ("{a: " * (MAX_DEPTH + 2), f"deeper than {MAX_DEPTH}"),
        ("a: *b", "is not YAML at line 1"),
        ("a: \x00", "is not YAML"),
        ("? [1]\n: 2", "is not YAML at line 1"),
        ("#" * (MAX_BYTES + 1), "has more than 4 MiB"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(text: str, said: str) -> None:
    found = _check("-", text=text)
    assert (found.exit_code, found.stdout) == (2, "")
    assert said in found.stderr
    assert found.stderr.count("\n") == 1


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00")
    assert "is not UTF-8" in _check(str(tmp_path)).stderr
    (tmp_path / "empty").mkdir()
    assert "has no file that ends in" in _check(str(tmp_path / "empty")).stderr
    assert _check("a\x00b").exit_code == 2


@pytest.mark.parametrize("merge", ["[{0}]", "{{<<: [{0}], b{1}: 1}}"])
def test_a_bomb_of_aliases_is_refused(merge: str) -> None:
    lines = ["a0: &a0 [1, 1]"] if merge[0] == "[" else ["a0: &a0 {a: 1}"]
    lines += [f"a{at}: &a{at} " + merge.format(", ".join([f"*a{at - 1}"] * 9), at) for at in range(1, 30)]
    with pytest.raises(UnreadableError, match="stands for more than"):
        list(load_documents("\n".join(lines)))


def test_values_are_read_as_kubernetes_reads_them() -> None:
    text = "{a: 2024-01-01, b: yes, c: 1:30, d: 0x10, e: 007, f: ~, g: =, h: 1.5, i: -3, j: 1e3, k: .inf}"
    [(found, twice)] = load_documents(text)
    assert twice == []
    assert found == {
        "a": "2024-01-01",
        "b": True,
        "c": "1:30",
        "d": "0x10",
        "e": "007",
        "f": None,
        "g": "=",
        "h": 1.5,
        "i": -3,
        "j": "1e3",
        "k": ".inf",
    }


_WORDS = st.sampled_from(
    [
        "apiVersion",
        "kind",
        "metadata",
        "name",
        "namespace",
        "spec",
        "template",
        "containers",
        "triggers",
        "type",
        "redis",
        "listName",
        "address",
        "data",
        "command",
        "args",
        "env",
        "value",
        "Deployment",
        "ScaledObject",
        "keda.sh/v1alpha1",
        "nowserving:queue:smollm2",
        "formula",
        "target",
        "scaleTargetRef",
        "models.toml",
        "resources",
        "limits",
        "nvidia.com/gpu",
        "strategy",
        "rollingUpdate",
        "maxSurge",
        "queued/0",
        "$(A)",
        "50%",
        "--appendonly",
    ]
)
_SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), _WORDS, st.text(max_size=8))
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_WORDS | st.text(max_size=4), inner, max_size=5),
    max_leaves=25,
)
_PLACES = [(at, path) for at, body in enumerate(plant()) for path in paths(body)]


@settings(deadline=None)
@given(_VALUES)
def test_any_yaml_is_found_wrong_or_refused(value: Any) -> None:
    with suppress(UnreadableError):
        check(yaml.safe_dump(value, allow_unicode=True))


@settings(deadline=None)
@given(st.text(alphabet="ab:-{}[]&*<!|>'\"%@`#,? \n\t1~", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(UnreadableError):
        parse_manifests(text, "a.yaml")


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(_PLACES), _VALUES | st.just(GONE)), min_size=1, max_size=4))
def test_no_field_breaks_a_rule_whatever_stands_in_it(edits: list[tuple[tuple[int, str], Any]]) -> None:
    documents = plant()
    for (at, path), value in edits:
        with suppress(LookupError, TypeError, AttributeError, ValueError):  # an edit before it took the place away
            put(documents[at], path, value)
    for finding in check(json.loads(json.dumps(documents))):
        assert finding.hit.what
        assert "\n" not in finding.hit.what
