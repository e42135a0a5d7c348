module example.com/dspy-bridge-tour

go 1.18
