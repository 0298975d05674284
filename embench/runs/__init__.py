"""From a request to finished trials, wherever they run."""
