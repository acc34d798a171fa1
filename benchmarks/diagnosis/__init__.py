"""A scored benchmark of diagnoses: small trainings that fail, and others that do not."""
