"""What a run writes down about itself: W&B (`tracker`), ``run.json`` (`manifest`), and a reader."""
