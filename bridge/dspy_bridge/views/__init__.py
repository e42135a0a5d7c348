"""What people look at: a daemon as it is now (``top``), and what happened in it (``trace``, ``report``)."""
