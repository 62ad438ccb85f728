"""What tests of the manifests share."""
