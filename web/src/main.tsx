import { render } from 'preact'
import './style/base.css'
import './style/parts.css'
import './style/pages.css'
import { Shell } from './shell'
import { begin } from './store'

render(<Shell />, document.getElementById('app')!)
void begin()
