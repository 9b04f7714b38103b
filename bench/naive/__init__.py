"""The obvious ways, kept so that a reader sees what each idea brings. Nothing of the product uses them."""
