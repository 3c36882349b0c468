"""What a plan must respect and be good at, and the arrays that searches work on."""
