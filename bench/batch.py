"""`python -m bench.batch`: eight chats at once beside the same eight one after another, through the whole stack.

Runs against a nowserving that is up (`make up`), with the model it serves; interleaved, the median of the rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time

from nowserving.client import DEFAULT_URL, Client, Job

SUBJECTS = ("dogs", "cats", "rivers", "trains", "bread", "clouds", "robots", "the sea")


def main() -> int:
    """Print tokens/s of both ways, their ratio, and whether the texts are the same."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default=os.environ.get("NOWSERVING_URL", DEFAULT_URL))
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--tokens", type=int, default=64, help="max_new_tokens of a job")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with Client(options.url) as client:
        run(client, options.model, options.tokens, 0, at_once=True)  # the first jobs of a process pay for its warm-up
        alone, batched, same = [], [], True
        for number in range(options.rounds):
            one_by_one = run(client, options.model, options.tokens, number, at_once=False)
            together = run(client, options.model, options.tokens, number, at_once=True)
            alone.append(one_by_one[0])
            batched.append(together[0])
            same = same and one_by_one[1] == together[1]
            print(f"round {number + 1}: {alone[-1]:.1f} and {batched[-1]:.1f} tokens/s", file=sys.stderr)
    ratios = [many / one for one, many in zip(alone, batched, strict=True)]
    print(f"one after another  {statistics.median(alone):7.1f} tokens/s")
    print(f"eight at once      {statistics.median(batched):7.1f} tokens/s")
    print(f"ratio              {statistics.median(ratios):7.2f}   (least {min(ratios):.2f}, most {max(ratios):.2f})")
    print(f"texts              {'the same' if same else 'DIFFER'}")
    return 0 if same else 1


def run(client: Client, model: str, tokens: int, number: int, *, at_once: bool) -> tuple[float, list[str]]:
    """Tokens a second, and the texts."""
    began = time.monotonic()
    jobs: list[Job] = []
    if at_once:
        submitted = [submit(client, model, tokens, number, subject) for subject in SUBJECTS]
        jobs = [client.wait(job.id, timeout_seconds=600) for job in submitted]
    else:
        for subject in SUBJECTS:
            jobs.append(client.wait(submit(client, model, tokens, number, subject).id, timeout_seconds=600))
    seconds = time.monotonic() - began
    outputs = [job.output or {} for job in jobs]
    made = sum(output["usage"]["completion_tokens"] for output in outputs)
    return made / seconds, [output["text"] for output in outputs]


def submit(client: Client, model: str, tokens: int, number: int, subject: str) -> Job:
    """One chat; the round's number makes its prompt new to any cache."""
    messages = [{"role": "user", "content": f"Write a paragraph about {subject}. ({number})"}]
    return client.submit(model, messages=messages, max_new_tokens=tokens, temperature=0)


if __name__ == "__main__":
    sys.exit(main())
