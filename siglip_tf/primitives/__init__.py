"""What the towers are made of, and nothing of this project's: layers, initialisers and gradients in closed form."""
