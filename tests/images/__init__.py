"""What the tests of images and compose.yaml share."""
