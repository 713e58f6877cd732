"""Tasks, the settings they run under, the queues they wait in and the scheduler that runs them."""
