"""Using a trained model: evaluation, prediction, protocols."""
