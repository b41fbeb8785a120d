"""First weights of both towers from the training pairs, in closed form, for data that are too few to begin at random.

`of_both_towers` reads the pairs and calls the others: `oriented_gradients` or `principal_patches` for the image tower,
with the `discriminants` of what the pictures show, and `first_words` for the text tower.
"""
