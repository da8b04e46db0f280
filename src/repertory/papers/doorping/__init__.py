"""DOORPING: backdoor attacks against dataset distillation, and an audit of distilled sets (Liu et al., NDSS 2023)."""
