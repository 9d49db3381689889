"""Drawings, tables, the report page, the model card, and their text."""
