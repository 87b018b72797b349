"""A dataset that others load, check and cite: releases with images and of links, and other forms.

`release` makes the rows and the hub's layout, `forms` what trainers read, `push` copies a release
to the hub or another store.
"""
