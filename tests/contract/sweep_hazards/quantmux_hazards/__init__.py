"""A backend of one sound kernel among those that take their process along."""
