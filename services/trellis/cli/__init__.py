"""`trellis …`: one module a noun, each loaded when its command is called."""
