"""Fine-tuning by LoRA: negatives, ReFL and RAFT."""
