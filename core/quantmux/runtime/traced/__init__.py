"""Under torch.compile: every bound op as one `torch.library` op, chosen while dynamo traces."""
