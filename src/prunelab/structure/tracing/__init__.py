"""One forward pass on the meta device, which finds the channels that each tensor dimension carries."""
