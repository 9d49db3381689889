"""From images to logits and grades: what commands, a page and other programs call."""
