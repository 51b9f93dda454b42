"""Whole models made of a base and an adapter."""
