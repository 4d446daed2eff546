"""What a training run stands on, whatever it trains: its folder and states, devices, several processes."""
