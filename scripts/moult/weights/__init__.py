"""Models as folders: fetched, folded, merged. No model is run here."""
