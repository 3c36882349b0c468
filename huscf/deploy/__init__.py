"""A server and sites in processes or on machines of their own: `huscf provision`, serve, join."""
