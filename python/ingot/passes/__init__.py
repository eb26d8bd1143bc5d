"""Relax → Relax. ``optimize`` runs the passes in order; one pass a file."""
