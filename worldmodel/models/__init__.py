"""Networks: video encoder, masked predictor, head, dynamics, and the world model made of them."""
