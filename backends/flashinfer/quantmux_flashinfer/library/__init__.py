"""Finding, checking and calling the installed FlashInfer."""
