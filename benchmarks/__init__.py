"""What procbench's figures rest on: ratios against peers and against the same system calls in C, alternating in one run."""
