"""What a model costs: measured where it runs, predicted, with the error, where it cannot run."""
