"""What a running layer tells of itself: measurements, metrics, spans, and what is made of them."""
