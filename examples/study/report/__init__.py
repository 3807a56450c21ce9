"""What came of the study: its page, its figures, and the numbers behind them."""
