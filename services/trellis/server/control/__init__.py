"""The control loops: claim rows, work outside the transaction, apply what came out under the claim."""
