"""What the NAGs say: deactivation keys, t-SNE, explanations, the report."""
