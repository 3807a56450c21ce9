"""The formats of a report: one file per format, all fed by the same records."""
