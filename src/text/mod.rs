//! Text: tokenizers, canonical forms, templates.
