"""Run and train lanes of networks: tensors only, no config and no file.

| folder or file                  | job                                                            |
|---------------------------------|----------------------------------------------------------------|
| ``lanes/``                      | networks on stacked parameters, and how they are run           |
| ``optimizers/``                 | one update for all lanes; its docstring says how to add one    |
| ``step/``                       | the next step of a stack, plain or captured                    |
| ``capture/``                    | work on tensors as a list of operations, to be repeated        |
| ``diagnostics/``                | which measurements are made of the steps, and when             |
| ``python_state``                | networks' Python values: compared, saved, put back             |
| ``forms``                       | such values as plain numbers and tensors, and back             |
| ``shared_state``                | state that networks of one class share; no run may change it   |
| ``network_checks``              | refuse networks and losses that cannot train as lanes          |
| ``devices``                     | the device, its threads and its determinism                    |
| ``bits``                        | equality to the bit                                            |

May be imported by ``schedules``, ``own_data``, ``tracking``, ``plan`` and everything above them in
the writing wing. It imports ``networks``, ``losses``, ``data`` and those below them.
"""
