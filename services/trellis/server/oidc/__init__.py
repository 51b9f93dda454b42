"""OpenID Connect: bearer tokens of identity providers that the operator trusts."""
