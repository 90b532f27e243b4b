"""Using a trained model: evaluation, prediction, labels over time, stored feature maps."""
