"""The executor that runs real models with torch."""
