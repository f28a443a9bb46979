"""From crops to a checkpoint: the trainer."""
