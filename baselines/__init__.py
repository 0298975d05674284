"""Model adapters of the benchmark and the networks behind them."""
