"""Scores of given answers: loss of whole rows, log-probabilities of labels, logits of classes."""
