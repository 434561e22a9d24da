"""Llama from a checkpoint's files to generated text."""
