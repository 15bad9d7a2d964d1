"""Applying a trained model: sliding windows, evaluation, prediction and metrics."""
