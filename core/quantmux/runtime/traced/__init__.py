"""Under torch.compile: every bound op as one `torch.library` op, chosen when the graph is traced."""
