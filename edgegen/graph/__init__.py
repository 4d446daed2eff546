"""An artifact as a graph: its operations read from the file itself, and their times as its runtime tells them."""
