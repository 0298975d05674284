"""From predictions to scores: counts, result files and their verification, predictions made elsewhere."""
