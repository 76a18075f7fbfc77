"""One reader per data format (`register.READERS`), and the parts that they share."""
