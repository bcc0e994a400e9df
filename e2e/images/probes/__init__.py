"""Programs that `python -m e2e.images check` runs inside the images; each raises if something is missing there."""
