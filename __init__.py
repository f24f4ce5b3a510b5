"""Ingot."""
