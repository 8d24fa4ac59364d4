"""A backend whose kernels misbehave: they raise, lie, hang, write where they must not, or die."""
