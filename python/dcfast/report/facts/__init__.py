"""What a report says: every number, from what the stages recorded. ``collect`` gathers them."""
